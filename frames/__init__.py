"""What both stages agree a frame is: geometry, boxes, grid, readers, the world, official scoring."""
