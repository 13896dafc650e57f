"""Records of submissions: how one was made, what making it again gives, and what goes to Kaggle."""
