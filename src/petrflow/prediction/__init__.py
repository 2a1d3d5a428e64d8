"""What a trained model says of frames, labelled or not, and where that goes."""
