"""CLEVRER-Kubric's scenes: what is drawn, how it moves, how it looks, and how it is written down.

``config`` says what may vary, ``scenes`` draws it, ``companions`` adds other objects, ``physics`` moves them, ``render``
(with ``stage``, ``solids`` and ``shading``) makes the pixels, ``annotations`` writes CLEVRER's JSON; ``world`` holds the
facts that all share.
"""
