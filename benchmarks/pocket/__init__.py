"""How the model that ships is trained and scored."""
