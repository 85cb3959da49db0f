"""nnU-Net as planner and judge, in a process of its own."""
