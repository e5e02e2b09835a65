"""One unit of images from encoded bytes to rows, and the job that says how."""
