"""What a recipe will cost, computed before anything runs. No torch."""
