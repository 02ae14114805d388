"""Load tests and the serving benchmark."""
