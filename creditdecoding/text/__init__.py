"""Text to ids and back: tokenizer, chat template, prompts as users give them."""
