"""What a trained model says of patients without labels: ``python -m utils.prediction --help``."""
