"""What a circuit does: activity of its nodes, effects and paths on one prompt, the drawing's graph."""
