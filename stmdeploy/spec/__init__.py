"""What a user asks for, validated once and then passed along unchanged; imports nothing heavy."""
