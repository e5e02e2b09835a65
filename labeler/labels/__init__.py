"""Labels of an image: detections, boxes, masks, merging, the rows that hold them, thresholds."""
