"""Parts of the generated demo cohort: patients, slides, expression and small checkpoints."""
