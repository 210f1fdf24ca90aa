"""What to look for in each figure, by its name."""

from __future__ import annotations

CAPTIONS = {
    "training": "Training. Both curves flatten, and held out stays near training; a growing gap is "
    "overfitting.",
    "reconstructions": "Held-out data and what the model makes of them. Each keeps what makes its "
    "original that one, not only its class.",
    "samples": "Samples of the prior, decoded. None stands out from the data, and all kinds of "
    "data occur.",
    "latent": "Codes over the prior. They fill it without holes (pockets) or strays (leaks), and "
    "its contours hold about 50, 90 and 99 % of them.",
    "pockets": "Where prior and aggregate posterior disagree. A pocket is where the prior has mass "
    "and no code lies: low-posterior samples (stars) are drawn there, and what is decoded from "
    "them shows what that costs. High-posterior samples (triangles) are codes that the prior all "
    "but forgets.",
    "leakage": "Leakage: how much of the aggregate posterior lies where the prior has next to "
    "nothing, against the threshold. Lower is better; the paper's score compares densities of two "
    "spaces, the one with log det those of one.",
    "random_and_low_posterior": "Samples of the prior, and those of them where fewest codes lie. "
    "With a prior that fits, these are as good, if of fewer kinds.",
    "neighbors": "Samples of the prior, and below each the training images nearest to it. A copy "
    "has one that is far nearer than the others; a blurred sample is near many.",
    "traversals": "From one held-out example to another, straight in generation space. With a flow "
    "the way is curved in representation space, around the places without codes.",
    "factors": "One coordinate changes in a row, the others stay.",
    "interpolations": "Between four held-out examples, straight in generation space. Images of "
    "them stand beside the corners.",
    "decoupling": "The model: what represents and what generates, and what is between them.",
    "coupling": "The flow between both spaces, block by block.",
    "architecture": "The layers of encoder and decoder.",
}
