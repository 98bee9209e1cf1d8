"""The built-in world (DESIGN §5): a zero-shot problem drawn from one grammar of facts, no download."""
