"""False alarms of the rules beside the verdict."""
