"""A debugger for the sessions of a runtime: look at a paused model, change it, go on. Not imported by ``import djinn``.

``bench`` is what every front shows and does; ``plain`` is the front of lines, ``main`` the command ``djinn``.
"""
