"""The workshop: training from a configuration file, judging, exporting a package."""
