"""Where documents come from: this machine, files, the hub; and their licenses."""
