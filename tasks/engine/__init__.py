"""How a step is declared, fingerprinted, run and kept."""
