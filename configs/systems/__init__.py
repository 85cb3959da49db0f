"""Systems of the paper: settings that are laid over those of a profile, each over a `base` first."""
