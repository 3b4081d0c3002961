"""What a record's fields mean: rollouts, chats, images, indices, lists, solutions, responses. Pure."""
