"""Training methods compared under missing and corrupted modalities."""
