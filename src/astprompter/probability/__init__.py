"""How likely failure is when the untuned model speaks: importance sampling and splitting, with limits that hold."""
