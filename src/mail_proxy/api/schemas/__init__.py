"""How answers look, for the documentation, by what they are about; the tests hold every answer against these."""
