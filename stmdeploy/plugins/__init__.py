"""What exporters and the core promise each other, and how exporters are found."""
