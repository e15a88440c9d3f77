"""The commands' options: what typer parses, and which step of ``commands`` it becomes.

What a command needs is imported in its body, so that the others start fast.
"""
