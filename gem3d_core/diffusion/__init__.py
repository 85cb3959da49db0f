"""The diffusion process: schedule, solvers, objective."""
