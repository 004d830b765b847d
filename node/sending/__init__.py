"""What goes out, until the destination has it and that is proved."""
