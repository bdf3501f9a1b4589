"""Keys as files, signed messages (COSE_Sign1), sealed boxes; everything that PyNaCl is used for."""
