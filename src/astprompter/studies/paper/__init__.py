"""The paper's own plans, findings and tables."""
