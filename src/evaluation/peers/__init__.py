"""What a user would pick instead, measured in the same harness and on a GPU only. Decides no claim."""
