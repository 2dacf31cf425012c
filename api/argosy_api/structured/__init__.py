"""What an answer must look like: the constraint of a request, and the grammar that it becomes."""
