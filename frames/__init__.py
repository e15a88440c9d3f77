"""What both stages agree a frame is: geometry, boxes, readers, the world, official scoring."""
