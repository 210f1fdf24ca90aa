"""Facts of the public data sets: shapes, sizes, licenses, and the SHA-256 of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Facts(NamedTuple):
    """A public data set as its authors published it."""

    about: str
    license: str
    homepage: str
    x_shape: tuple[int, ...]
    sizes: Mapping[str, int]  # examples by split; without "test", the config's fractions divide it
    scale: float  # of the raw values: 255 for pixels, 1 for binary ones
    files: Mapping[str, str]  # name -> SHA-256 as published, "" where none is
    any_file: bool = False  # one of the files is enough
    label: str = ""  # feature of TFDS that holds the class
    factors: tuple[str, ...] = ()  # features of TFDS that hold the generative factors, in order
    is_jpeg: bool = False  # published as JPEG; elsewhere a JPEG copy has lost something

    def wanted(self) -> str:
        """The files that hold the set, in words."""
        words = (" or " if self.any_file else ", ").join(self.files)
        return words + (" (or its folder of images)" if self.is_jpeg else "")


def _idx(*sha256: str) -> dict[str, str]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return {f"{name}-ubyte.gz": digest for name, digest in zip(names, sha256, strict=True)}


_SHAPE_FACTORS = ("shape", "scale", "orientation", "x_position", "y_position")
_ROOM_FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")

CATALOG = {
    "mnist": Facts(
        about="handwritten digits (LeCun, Cortes and Burges, 1998)",
        license="CC BY-SA 3.0",
        homepage="http://yann.lecun.com/exdb/mnist",
        x_shape=(28, 28, 1),
        sizes={"train": 60_000, "test": 10_000},
        scale=255.0,
        files=_idx(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        label="label",
    ),
    "fashion_mnist": Facts(
        about="images of clothes (Xiao, Rasul and Vollgraf, arXiv 1708.07747)",
        license="MIT",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        x_shape=(28, 28, 1),
        sizes={"train": 60_000, "test": 10_000},
        scale=255.0,
        files=_idx(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        label="label",
    ),
    "binarized_mnist": Facts(
        about="MNIST binarized once (Larochelle and Murray, 2011); dynamic: observation=bernoulli",
        license="CC BY-SA 3.0",
        homepage="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
        x_shape=(28, 28, 1),
        sizes={"train": 50_000, "validation": 10_000, "test": 10_000},
        scale=1.0,
        files={
            "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbb"
            "daaae0939789dd2f4f0205278cee3e4d",
            "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f66"
            "5ec01e96d9be234aaeeac8a34930e2e2",
            "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a"
            "2dd2930ef786f35d45795fc193b5ab2c",
        },
    ),
    "svhn_cropped": Facts(
        about="street view house numbers (Netzer et al., 2011)",
        license="for non-commercial use only",
        homepage="http://ufldl.stanford.edu/housenumbers",
        x_shape=(32, 32, 3),
        sizes={"train": 73_257, "test": 26_032},
        scale=255.0,
        files={
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
        label="label",
    ),
    "cifar10": Facts(
        about="ten classes of small photographs (Krizhevsky, 2009)",
        license="none stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        x_shape=(32, 32, 3),
        sizes={"train": 50_000, "test": 10_000},
        scale=255.0,
        files={
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d6"
            "8f9f25eb1ed8d9ddda3db29a59bca1dd",
            "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f3"
            "9262c83c16fe9348329d7fe0b5c001ce",
        },
        any_file=True,
        label="label",
    ),
    "celeb_a": Facts(
        about="aligned faces, center crop resized to 64x64 (Liu et al., arXiv 1411.7766)",
        license="non-commercial research only",
        homepage="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        x_shape=(64, 64, 3),
        sizes={"train": 162_770, "validation": 19_867, "test": 19_962},
        scale=255.0,
        files={
            "img_align_celeba.zip": "46fb89443c578308acf364d7d379fe1b"
            "9efb793042c0af734b6112e4fd3a8c74",
        },
        is_jpeg=True,
    ),
    "dsprites": Facts(
        about="all 737,280 pictures of three shapes in five factors (Matthey et al., 2017)",
        license="Apache 2.0",
        homepage="https://github.com/google-deepmind/dsprites-dataset",
        x_shape=(64, 64, 1),
        sizes={"train": 737_280},
        scale=1.0,
        files={
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz": "",
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5": "729fa22e884c9c500e1f17415d580746"
            "b4c5894fbbb780a1319bbcfa39a745bb",
        },
        any_file=True,
        factors=tuple(f"label_{name}" for name in _SHAPE_FACTORS),
    ),
    "shapes3d": Facts(
        about="all 480,000 pictures of an object in a room in six factors (Burgess and Kim, 2018)",
        license="Apache 2.0",
        homepage="https://github.com/google-deepmind/3d-shapes",
        x_shape=(64, 64, 3),
        sizes={"train": 480_000},
        scale=255.0,
        files={"3dshapes.h5": "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785"},
        factors=tuple(f"label_{name}" for name in _ROOM_FACTORS),
    ),
}

# What needs no file: name -> what it is, and its license.
EMBEDDED = {
    "digits": ("handwritten digits (Alpaydin and Kaynak, 1998), as in scikit-learn", "CC BY 4.0"),
    "two_moons": ("two half circles in the plane, drawn anew from a seed", "generated"),
    "swiss_roll": ("a rolled-up sheet in space, drawn anew from a seed", "generated"),
    "shapes64": ("one shape on black, every combination of five known factors", "generated"),
}
