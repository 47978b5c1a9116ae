"""What models are calibrated and measured on: texts and images."""
