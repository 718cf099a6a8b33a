"""The web page of the service, made with Gradio; it loads only where the page is on."""
