"""Example plug-in of astprompter."""
