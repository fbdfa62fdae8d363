"""Classic segmentation networks: train, convert with proof, deploy to C++."""
