"""What a person looks at: figures, tables and the summary of a run."""
