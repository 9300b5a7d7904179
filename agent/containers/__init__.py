"""Workers in containers: images in the store, tools beside an image's Python, the start of a worker."""
