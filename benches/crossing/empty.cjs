// Nothing: what a require costs by itself.
