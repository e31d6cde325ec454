"""Who calls, and what they may see: settings, questions to the owner's handlers, filters."""
