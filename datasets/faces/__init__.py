"""CelebA's files and faces drawn in their stead.

``places`` finds the files below a root, ``lists`` and ``parquet`` read them, ``listing`` gives all layouts one interface,
``decode`` makes pixels of them; ``cells`` says which image shows what. ``people`` says what varies in a drawn face,
``drawn`` paints it, ``writer`` writes faces down as CelebA is written.
"""
