"""OWL-ViT's and OWLv2's prompts: phrases in templates, as CLIP's tokens."""
