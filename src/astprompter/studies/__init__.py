"""The paper's study as plans: what is trained, measured, pooled and concluded."""
