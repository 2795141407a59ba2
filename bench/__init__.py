"""`make bench`: what Keylane takes and delivers, each figure beside a yardstick of the same run."""
