"""Running a whole pipeline: on a device the artifacts of a bundle, here the float originals too."""
