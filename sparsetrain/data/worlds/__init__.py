"""Made data with known truth: facts, a knowledge graph, graded triples and graded code."""
