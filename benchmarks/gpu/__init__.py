"""One command for a machine with a GPU: is the installation right, and how fast is it?"""
