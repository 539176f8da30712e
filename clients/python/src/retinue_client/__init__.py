"""Python client of Retinue."""
