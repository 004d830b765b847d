"""What the image viewer draws: stacks in order, frames as numbers, outlines of segmentations."""
