"""What models learn from: data sets, pairs of pictures and texts, crops, synthetic scenes."""
