"""Whether a challenger replaces a champion: judged on rows that neither was trained on, by more than one number."""
